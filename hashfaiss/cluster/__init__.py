"""Many machines, by Ray: actors that encode, and actors that search a part of the codes. Needs the extra `ray`."""
