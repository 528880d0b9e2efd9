"""How fast, honestly: measurements on this host and on phones, and the reports made of them."""
