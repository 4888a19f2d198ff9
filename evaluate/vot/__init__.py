"""VOT challenges: workspaces of the toolkit, and the tracker that it talks to."""
