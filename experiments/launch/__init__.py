"""From a laptop to a pod and back to zero cost: a launch is a plan that prints, and then runs. README.md is its page."""
