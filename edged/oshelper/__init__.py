"""The privileged helper: carries out what operators command of the operating system, and believes no daemon."""
