"""The page in a browser that shows the features of any photo before and after fine-tuning."""
