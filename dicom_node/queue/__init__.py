"""The queue: broker, messages, worker processes, and the sweeper that finds in the ledger what is to be done."""
