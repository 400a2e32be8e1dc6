"""What drives the tools and measures them. Nobody imports this."""
