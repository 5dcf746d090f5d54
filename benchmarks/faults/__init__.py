"""Every trainer killed, stopped, starved and poisoned, in processes of their own: `make test-faults`."""
