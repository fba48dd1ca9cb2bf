"""Which code this is."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


def revision() -> str:
  """The commit of this checkout, "-dirty" if edited, or "unknown"."""
  if not (ROOT / ".git").exists():
    return "unknown"  # Else git would tell of whatever lies around it.
  command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
  try:
    done = subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return "unknown"  # A machine without git or without its history.
  return done.stdout.strip()
