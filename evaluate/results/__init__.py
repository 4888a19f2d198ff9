"""Result files: ours, and the layouts of other toolkits."""
