# Completion of stacksample for bash.
# shellcheck shell=bash

# What may stand at the word that is being completed, for the option before it:
# a list of words, "folders", "pids", or "text" for what cannot be known.
# Nothing is said for an option without a value.
_stacksample_value() {
  case $1 in
    -o | --output) echo folders ;;
    --engine) echo auto perf ptrace ;;
    --env) echo full redacted none ;;
    --count) echo time samples ;;
    --state) echo user kernel spin gil lock io child sleep wait runnable stopped unknown ;;
    --format) echo folded trace flamegraph speedscope pprof summary all none ;;
    -r | --rate | --audit | --stamp | --timeout | --grace | --dump-at | --stall | -d | --duration | \
      -n | --repeat | -i | --interval | --test | --thread | --from | --to) echo text ;;
  esac
}

_stacksample_options() {
  local shared="-o --output --stamp -r --rate --engine --cpu-only --stop-any --no-python
    --no-native --no-children --audit --format --trace-slices-only --env -q --quiet
    --no-progress -h --help"

  case $1 in
    run) echo "$shared --no-log --timeout --grace --dump-at --stall" ;;
    attach) echo "$shared -d --duration" ;;
    dump) echo "-j --json --quick --full -n --repeat -i --interval --no-children --no-python
      --no-native --never-stop -h --help" ;;
    report) echo "--format --test --thread --state --from --to --count --trace-slices-only
      -h --help" ;;
    doctor) echo "-h --help" ;;
  esac
}

# Fills COMPREPLY with the words of $1 that begin with $2; in a list with commas
# only the part behind the last comma is completed.
_stacksample_words() {
  local before=""

  [[ ${3:-} == list && $2 == *,* ]] && before=${2%,*},
  mapfile -t COMPREPLY < <(compgen -P "$before" -W "$1" -- "${2#"$before"}")
}

_stacksample_kind() {
  local kind=$1 word=$2

  case $kind in
    folders)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -d -- "$word")
      ;;
    pids)
      mapfile -t COMPREPLY < <(cd /proc && compgen -W "$(echo [0-9]*)" -- "$word")
      ;;
    text) COMPREPLY=() ;;
    *folded*) _stacksample_words "$kind" "$word" list ;;
    *) _stacksample_words "$kind" "$word" ;;
  esac
}

# Words behind `run`'s "--", or its first operand, are another command's. Prints the
# index of that command, or nothing.
_stacksample_command_at() {
  local i

  for ((i = 2; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --) echo $((i + 1)); return ;;
      -*) [[ -n $(_stacksample_value "${COMP_WORDS[i]}") ]] && i=$((i + 1)) ;;
      *) echo "$i"; return ;;
    esac
  done
}

_stacksample() {
  local command=${COMP_WORDS[1]} word=${COMP_WORDS[COMP_CWORD]}
  local kind previous=${COMP_WORDS[COMP_CWORD - 1]} at

  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    _stacksample_words "run attach dump report doctor --help --version" "$word"
    return
  fi
  if [[ $command == run ]]; then
    at=$(_stacksample_command_at)
    if [[ -n $at ]]; then
      if declare -F _command_offset >/dev/null; then
        _command_offset "$at"
      else
        compopt -o default
      fi
      return
    fi
  fi
  # "--env=full": readline breaks words at "=".
  if [[ $word == = ]]; then
    word="" kind=$(_stacksample_value "$previous")
  elif [[ $previous == = ]]; then
    kind=$(_stacksample_value "${COMP_WORDS[COMP_CWORD - 2]}")
  else
    kind=$(_stacksample_value "$previous")
  fi
  if [[ -z $kind && $word == -* ]]; then
    kind=$(_stacksample_options "$command")
  elif [[ -z $kind ]]; then
    case $command in
      run) kind="--" ;;
      attach | dump) kind=pids ;;
      report) kind=folders ;;
    esac
  fi
  [[ -z $kind ]] || _stacksample_kind "$kind" "$word"
}

complete -F _stacksample stacksample
