"""The typed content of every JSON file and table between stages: read and written here only.

One module per room of writers. A file's fields, their names and types stand in one class; reading the file
gives an object of that class, or one line that names the file, the key and what to run again.
"""
