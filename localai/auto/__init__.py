"""Model `auto`: each query to the cheapest model that should answer it, by what `localai bench` measured here."""
