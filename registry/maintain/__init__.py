"""What operators run now and then: verification, garbage collection, export and import."""
