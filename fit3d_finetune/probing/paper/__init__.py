"""The published probes: crops drawn and encoded anew in every iteration; docs/fidelity/probes.md lists each setting."""
