"""The shapes of the HTTP API: what may be sent, what comes back; one file for each part of it."""
