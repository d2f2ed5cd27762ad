#!/bin/sh
# Runs every unit test binary, each for at most two minutes; prints the output
# of those that failed and one closing line. Exit 1 when any failed.
failed=0
passed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
  if timeout -k 5 120 "$t" >"$log" 2>&1; then
    passed=$((passed + 1))
  else
    status=$?
    failed=$((failed + 1))
    cat "$log"
    echo "FAILED: $t (status $status)"
  fi
done
echo "unit: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
