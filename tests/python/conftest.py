import os

# Torch's threads would spin between calls, which makes the suite several times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
