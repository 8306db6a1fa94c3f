"""The connections of clients. Nothing about models or engines."""
