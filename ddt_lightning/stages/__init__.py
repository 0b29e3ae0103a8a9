"""One LightningModule per stage; names match stages/*.yaml."""
