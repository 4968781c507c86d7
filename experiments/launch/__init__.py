"""From a laptop to a pod and back to zero cost: a plan prints, and then runs. README.md is its page."""
