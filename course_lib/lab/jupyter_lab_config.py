# For JupyterLab, as `make lab` starts it: jupyter lab --config=course_lib/lab/jupyter_lab_config.py
from pathlib import Path
from urllib.parse import quote

from course_lib.desk.start_page import NAME
from course_lib.files import ROOT

c = get_config()  # noqa: F821
c.ServerApp.root_dir = str(ROOT)
c.ServerApp.contents_manager_class = "course_lib.lab.contents.CourseContents"
c.CourseContents.preferred_dir = "work"
c.LabApp.default_url = f"/lab/tree/work/{quote(NAME)}"
c.LabApp.app_settings_dir = str(Path(__file__).parent / "settings")
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
# nbgrader's tabs are for instructors, who start JupyterLab in the folder of a class
c.ServerApp.jpserver_extensions.update(
    {
        f"nbgrader.server_extensions.{name}": False
        for name in ("formgrader", "assignment_list", "course_list", "validate_assignment")
    }
)
