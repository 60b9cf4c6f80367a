# fish completion for nimbus: nimbus completion fish > ~/.config/fish/completions/nimbus.fish
function __nimbus_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found (command $words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c nimbus -f -a '(__nimbus_complete)'
