"""The log contract: schema, validation, reading; adapters and a simulator that write one."""
