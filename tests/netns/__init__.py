"""Sites and links in network namespaces of their own: real kernel, real traffic."""
