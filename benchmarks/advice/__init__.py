"""How well `cadc-rec advise` predicts: its intervals beside what was measured."""
