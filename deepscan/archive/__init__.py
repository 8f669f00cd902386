"""Archive scans: any number of files, one folder of results, nothing lost.

```
inputs ─▶ listing ─▶ scheduler ─▶ worker pool (local or cluster) ─▶ journal ─▶ reports ─▶ exit code
          InputFile               Task ─▶ Outcome                  Results
```
The journal is the truth; every report is derived from it and can be made again.
"""
