"""The sections of the report, each a module and its template: `build` makes the values of the template."""
