"""The cheap model that reads every training interaction, and the tables it leaves."""
