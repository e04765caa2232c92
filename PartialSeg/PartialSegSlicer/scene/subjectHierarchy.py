"""The tree of the Data module: what lies beside a volume, and what DICOM said of it."""

import slicer


def placeBeside(node, neighborNode) -> None:
    """Put a node beside another one in the subject hierarchy, unless it lies in a folder already."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item, neighborItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(neighborNode)
    if item and neighborItem and hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID():
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(neighborItem))


def modalityOf(volumeNode) -> str:
    """Return the DICOM modality of a volume, such as "CT"; "" if it did not come from DICOM."""
    hierarchy = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")  # makes none
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    return hierarchy.GetItemAttribute(item, name) if item else ""
