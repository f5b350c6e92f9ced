"""What answers cost in joules: sensors and step records in, figures with their quality out."""
