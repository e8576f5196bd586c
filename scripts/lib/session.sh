# The server's tmux session. Sourced by server.sh.
# shellcheck shell=bash

session_exists() { tmux has-session -t "=$TMUX_SESSION" 2>/dev/null; }

session_ours() { session_exists && [[ $(tmux show-options -t "=$TMUX_SESSION:" -qv @runbook) == "$SERVER_ID" ]]; }

session_serves() { # check that its pane runs supervisor, or is about to
  session_ours && [[ $(tmux list-panes -s -t "=$TMUX_SESSION:" -F '#{pane_start_command}') == */pane.sh* ]]
}

show_in_tmux() { # show_in_tmux SESSION [OPTION…]: create the session that runs this server and shows its log
  # A tmux server that already runs may end at logout: the pane has its own scope and then opens another session.
  "${SCOPE[@]}" tmux "${@:2}" new-session -d -s "$1" -x 160 -y 50 "${SCOPE[@]}" "$BASH" "$ROOT/scripts/support/pane.sh" "$SERVER_ID.env" ';' \
    set-option -t "=$1:" @runbook "$SERVER_ID"
}
