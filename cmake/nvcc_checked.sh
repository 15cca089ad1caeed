#!/bin/sh
# Runs a compile command of a Hopper kernel and fails when ptxas says that it serialises wgmma instructions (remarks
# C7510 to C7520), which halves a kernel's rate without any other sign.
log=$("$@" 2>&1)
status=$?
printf '%s\n' "$log" | sed '/^$/d' >&2
if printf '%s' "$log" | grep -qE 'C75[12][0-9]'; then
  echo "ptxas serialises wgmma instructions: see src/cuda/wgmma.cuh" >&2
  exit 1
fi
exit $status
