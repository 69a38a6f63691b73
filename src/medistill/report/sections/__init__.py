"""The sections of the report, each a module and its template: `build` says what the template shows."""
