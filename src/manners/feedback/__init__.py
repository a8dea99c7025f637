"""From people's judgements to pairs: the store, the importers, the arithmetic of rankings. No torch in here."""
