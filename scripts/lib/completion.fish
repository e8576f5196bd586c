# Tab completes the tasks and flags of ./inv and inv in fish. Sourced from ~/.config/fish/config.fish, never run.
function __runbook_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] --complete -- inv $words[2..] 2>/dev/null
end
complete -c inv -f -a '(__runbook_complete)'
