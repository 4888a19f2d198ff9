"""Raw sequence trees become boxes, and boxes become metrics, pictures and submissions."""
