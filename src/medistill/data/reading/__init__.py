"""What adapters read a data set with: folders, tables, boxes, masks and arrays, and the `Source` that they fill."""
