"""The worker as Slicer sees it: a child process, its pipe, and what it is asked to do."""
