"""What calls return and how it is shown: reports, tables, filter pictures. Imports the ground alone; every room above may import it."""
