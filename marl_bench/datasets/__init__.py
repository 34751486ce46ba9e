"""Offline data: schema, storage, collection, import, and what learners draw from it."""
