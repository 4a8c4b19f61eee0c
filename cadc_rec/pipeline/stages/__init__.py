"""The stages that need torch: each fills one artifact from the ones before it."""
