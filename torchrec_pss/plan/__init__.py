"""The dry planner; see __main__."""
