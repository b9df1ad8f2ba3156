"""The suite that checks the latency targets: load, targets, mix, growth, peers, report. Speaks HTTP, or SQL through `db`."""
