"""Who may write when: the threads of this process, then all processes."""
