"""The routes, one file for each thing that people or programs come for."""
