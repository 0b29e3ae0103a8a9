"""The embedded world: scenes of coloured shapes, their language, and the checker that reads them back."""
