"""Images: tasks of telling classes of pictures apart."""
