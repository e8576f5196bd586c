"""The doctor: finds the cause of a failure in the log and on the machine."""
