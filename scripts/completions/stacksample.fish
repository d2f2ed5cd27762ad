# Completion of stacksample for fish.

# Is this one of the commands typed so far, and are we before the command that
# `run` is to launch?
function __stacksample_using
    set -l words (commandline -opc)
    test (count $words) -ge 2; or return 1
    contains -- $words[2] $argv; or return 1
    test $words[2] != run; or not contains -- -- $words
end

function __stacksample_launching
    set -l words (commandline -opc)
    test (count $words) -ge 2; and test $words[2] = run; and contains -- -- $words
end

function __stacksample_launched
    set -l words (commandline -opc) (commandline -ct)
    set -l at (contains -i -- -- $words)
    set -l launched (string join ' ' -- $words[(math $at + 1)..-1])
    complete -C"$launched"
end

function __stacksample_processes
    for pid in (string match -r '\d+$' /proc/*)
        printf '%s\t%s\n' $pid (cat /proc/$pid/comm 2>/dev/null; or echo gone)
    end
end

set -l session __stacksample_using run attach
set -l frames __stacksample_using run attach dump
set -l states user kernel spin gil lock io child sleep wait runnable stopped unknown
set -l formats folded trace flamegraph speedscope pprof all none

complete -c stacksample -f
complete -c stacksample -n __fish_use_subcommand -l version -d 'print the version'
complete -c stacksample -n 'not __stacksample_launching' -s h -l help -d 'print the options'
complete -c stacksample -n __fish_use_subcommand -a run \
    -d 'launch a command, sample it until it ends, leave a bundle'
complete -c stacksample -n __fish_use_subcommand -a attach \
    -d 'sample a live process and its children, leave a bundle'
complete -c stacksample -n __fish_use_subcommand -a dump \
    -d 'print every thread of a live process tree'
complete -c stacksample -n __fish_use_subcommand -a report \
    -d 'write outputs again from a bundle, or print its tables'
complete -c stacksample -n __fish_use_subcommand -a doctor \
    -d 'what works on this machine, and how to fix what does not'

complete -c stacksample -n "$session" -s o -l output -xa '(__fish_complete_directories)' \
    -d 'parent folder of the bundle'
complete -c stacksample -n "$session" -l stamp -x -d "the bundle's name"
complete -c stacksample -n "$session" -s r -l rate -x \
    -d "samples a second of each thread's CPU time"
complete -c stacksample -n "$session" -l engine -xa 'auto perf ptrace' -d 'how to sample'
complete -c stacksample -n "$session" -l cpu-only -d 'no stacks of waiting threads'
complete -c stacksample -n "$session" -l stop-any -d 'stop threads whose call may end with EINTR'
complete -c stacksample -n "$frames" -l no-python -d 'leave Python frames out'
complete -c stacksample -n "$frames" -l no-native -d 'leave native frames out'
complete -c stacksample -n "$frames" -l no-children -d 'only the first process'
complete -c stacksample -n "$session" -l audit -x \
    -d 'unwind one stack in so many a second way'
complete -c stacksample -n "$session" -l format -d 'outputs to write' \
    -xa "(__fish_complete_list , 'string join \n $formats')"
complete -c stacksample -n "$session" -l env -xa 'full redacted none' -d 'what env.txt holds'
complete -c stacksample -n "$session" -s q -l quiet -d 'no messages but errors'
complete -c stacksample -n "$session" -l no-progress -d 'no status line'
complete -c stacksample -n '__stacksample_using run attach report' -l trace-slices-only \
    -d 'leave the raw samples out of profiler.json'

complete -c stacksample -n '__stacksample_using run' -l no-log -d 'do not keep the output'
complete -c stacksample -n '__stacksample_using run' -l timeout -x -d 'our own deadline'
complete -c stacksample -n '__stacksample_using run' -l grace -x \
    -d 'time between the steps of that ending'
complete -c stacksample -n '__stacksample_using run' -l dump-at -x \
    -d 'dumps at times, or shares of the earliest limit'
complete -c stacksample -n '__stacksample_using run' -l stall -x \
    -d 'a dump when a test phase has lasted this long'
complete -c stacksample -n __stacksample_launching -a '(__stacksample_launched)'

complete -c stacksample -n '__stacksample_using attach' -s d -l duration -x \
    -d 'end after this long'
complete -c stacksample -n '__stacksample_using attach dump' -a '(__stacksample_processes)'

complete -c stacksample -n '__stacksample_using dump' -s j -l json -d 'as JSON'
complete -c stacksample -n '__stacksample_using dump' -l quick \
    -d 'one look instead of three over 2 s'
complete -c stacksample -n '__stacksample_using dump' -l full -d "pytest's own frames, too"
complete -c stacksample -n '__stacksample_using dump' -s n -l repeat -x \
    -d 'take this many dumps'
complete -c stacksample -n '__stacksample_using dump' -s i -l interval -x \
    -d 'time between dumps'
complete -c stacksample -n '__stacksample_using dump' -l never-stop \
    -d 'no stacks of running threads: nothing is stopped'

complete -c stacksample -n '__stacksample_using report' -l format -d 'write these again' \
    -xa "(__fish_complete_list , 'string join \n $formats summary')"
complete -c stacksample -n '__stacksample_using report' -l test -x \
    -d 'only tests whose id holds this'
complete -c stacksample -n '__stacksample_using report' -l thread -x \
    -d 'only threads of this name, role or number'
complete -c stacksample -n '__stacksample_using report' -l state -xa "$states" \
    -d 'only this state'
complete -c stacksample -n '__stacksample_using report' -l from -x \
    -d 'from this time of the run on'
complete -c stacksample -n '__stacksample_using report' -l to -x \
    -d 'up to this time of the run'
complete -c stacksample -n '__stacksample_using report' -l count -xa 'time samples' \
    -d 'what folded stacks count'
complete -c stacksample -n '__stacksample_using report' -xa '(__fish_complete_directories)'
