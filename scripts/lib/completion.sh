# Tab completes the tasks and flags of ./inv and inv, in bash and zsh. Sourced from ~/.bashrc or ~/.zshrc, never run.
# shellcheck shell=bash
if [[ -n ${ZSH_VERSION:-} ]]; then
  type compdef >/dev/null 2>&1 || { autoload -Uz compinit && compinit -i; }
  autoload -Uz bashcompinit && bashcompinit
fi

_runbook_complete() { # ask the inv that is being typed for the words; complete file names if there are none
  local line words
  words=$("${1/#\~/$HOME}" --complete -- inv "${COMP_WORDS[@]:1:$COMP_CWORD}" 2>/dev/null)
  COMPREPLY=()
  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$words" -- "$2")
}
complete -o default -F _runbook_complete inv
