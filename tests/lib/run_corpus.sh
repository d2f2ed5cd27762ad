#!/bin/sh
# Runs fuzz entries over their corpora (tests/fuzz/corpus/NAME), and with
# `-mutate SECONDS` also over mutations of them. Exit 1 when any failed.
mutate=""
if [ "$1" = -mutate ]; then
  mutate="-mutate $2"
  shift 2
fi
failed=0
passed=0
top=$(cd "$(dirname "$0")/../.." && pwd)
for entry in "$@"; do
  name=$(basename "$entry")
  corpus="$top/tests/fuzz/corpus/${name#fuzz_}"
  [ -d "$corpus" ] || corpus=""
  # shellcheck disable=SC2086
  if "$entry" $mutate $corpus; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $entry"
  fi
done
echo "fuzz entries: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
