"""The loop, one file per verb. It meets critics, engines and policies only as protocols."""
