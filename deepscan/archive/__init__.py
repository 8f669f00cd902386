"""Archive scans: any number of files into one results folder, resumable at any point.

```
inputs ─▶ listing ─▶ scheduler ─▶ worker pool (local or cluster) ─▶ journal ─▶ reports ─▶ exit code
          InputFile               Task ─▶ Outcome                  Results
```
The journal is the truth; every report is derived from it and can be made again.
"""
