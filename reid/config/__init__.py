"""The typed schema, its checks, the settings made of it, and what tells two configs apart."""
